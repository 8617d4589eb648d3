"""Laws of the state: what a change leaves alone is the same object before and after."""

from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from kinx_loadbalancer_agent.model.resources import Listener, LoadBalancer, Member, Ref, Resource
from kinx_loadbalancer_agent.model.state import State

IDS = st.sampled_from("abcd")
RESOURCES: st.SearchStrategy[Resource] = st.one_of(
    st.builds(lambda id, name: LoadBalancer(id=id, name=name), IDS, IDS),
    st.builds(
        lambda id, port: Listener(id=id, protocol="HTTP", protocol_port=port),
        IDS,
        st.integers(80, 82),
    ),
    st.builds(
        lambda id, pool, port: Member(id=id, pool_id=pool, address="192.0.2.1", protocol_port=port),
        IDS,
        IDS,
        st.integers(80, 82),
    ),
)
STATES = st.lists(RESOURCES, max_size=12).map(lambda found: made_of(*found))


def made_of(*resources: Resource) -> State:
    state = State()
    for resource in resources:
        state = state.including(resource)
    return state


def content(state: State) -> set[tuple[Ref, str]]:
    return {
        (resource.ref, resource.model_dump_json())
        for parents in state.tables.values()
        for table in parents.values()
        for resource in table.values()
    }


@given(STATES, RESOURCES)
def test_what_is_included_is_found_in_place_of_what_had_its_name(
    state: State, resource: Resource
) -> None:
    after = state.including(resource)

    assert after.get(resource.ref) is resource
    assert after.table(*resource.ref[:2])[resource.ref.id] is resource
    others = {found for found in content(state) if found[0] != resource.ref}
    assert content(after) == others | {(resource.ref, resource.model_dump_json())}


@given(STATES, RESOURCES)
def test_what_is_taken_out_is_gone_and_nothing_else(state: State, resource: Resource) -> None:
    after = state.including(resource).without(resource.ref)

    assert after.get(resource.ref) is None
    assert all(table for parents in after.tables.values() for table in parents.values())
    assert content(after) == {found for found in content(state) if found[0] != resource.ref}


@given(STATES, RESOURCES)
def test_a_state_never_changes(state: State, resource: Resource) -> None:
    before = content(state)
    state.having(resource.kind, "id", resource.ref.id)

    state.including(resource).without(resource.ref)

    assert content(state) == before


@given(STATES, RESOURCES)
def test_tables_that_a_change_does_not_touch_are_the_same_objects(
    state: State, resource: Resource
) -> None:
    after = state.including(resource)

    for kind, parents in state.tables.items():
        for parent, table in parents.items():
            if (kind, parent) != resource.ref[:2]:
                assert after.table(kind, parent) is table


@given(STATES, RESOURCES, st.data())
def test_a_search_finds_what_looking_at_everything_finds(
    state: State, resource: Resource, data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(sorted(type(resource).model_fields)))
    value: Hashable = getattr(resource, field)
    state.having(resource.kind, field, value)  # what was found once must not be found for ever

    after = state.including(resource)
    found = after.having(resource.kind, field, value)

    everything = [one for table in after.tables[resource.kind].values() for one in table.values()]
    assert {one.ref for one in found} == {
        one.ref for one in everything if getattr(one, field) == value
    }
    gone = after.without(resource.ref).having(resource.kind, field, value)
    assert resource.ref not in {one.ref for one in gone}
